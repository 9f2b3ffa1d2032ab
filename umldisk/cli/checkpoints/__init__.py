"""The commands of `umldisk checkpoint`."""
