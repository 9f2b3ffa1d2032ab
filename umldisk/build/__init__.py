"""Making a guest's disks: a base gives entries, a split shares them out, disks take them."""
