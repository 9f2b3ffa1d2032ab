"""What happens when something goes wrong: kills, errors, full disks, hostile files and arguments."""
