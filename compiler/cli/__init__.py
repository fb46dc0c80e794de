"""The commands of `pmc`, one file each.  Their modules import only what `--help` needs; the work is imported late."""
