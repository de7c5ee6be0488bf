"""The arithmetic of operators: no I/O, and no clock but the one that is passed in."""
