"""Reading the files of an ext2, ext3 or ext4 file system without mounting it.

    reader ──▶ Geometry ──▶ Disk ──▶ inodes ──▶ blocks ──▶ contents, directories ──▶ walk
               superblock,  checked  inode.py   trees of               names and
               groups       reads               extents or             numbers
                                                pointers, inline

The reader may be a file, a block device or the merged view of a COW file; nothing is ever written, no journal is
replayed, and nothing of the host's own kernel is involved, so that an image from a stranger can do no harm: that is
what the package is for. What it needs to be told apart from a mount is therefore part of its contract:

- Damage is a DataError with the inode or byte where it was found, never a guess, and never any other exception.
- Every read is checked against the file system's size. A map of blocks has to ascend and may not hold more blocks than
  the file system has, a directory may be reached once, and nothing is held in memory that the image does not hold.
- Holes and extents that were allocated but never written are holes. Bytes past a file's end are not its contents.

Left out: checksums of metadata are not verified (`e2fsck` judges; here every field is held against what uses it);
files encrypted by fscrypt, and the features `compression` and `dirdata`, which no kernel mounts, are refused; a journal
that wants replay is a fact (`needs_recovery`) for the caller to act on, because what it holds is not seen here.

Two readers exist in Python: `ext4` knows neither ext2 nor ext3 and pins what it depends on, `dissect.extfs` is under
the AGPL, and neither was made to read from a COW file; hence this one. Source of all facts: fs/ext4/ext4.h and its
neighbours in the kernel.
"""
