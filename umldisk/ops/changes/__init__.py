"""Which files of a guest are not what they should be: what an intruder changed."""
