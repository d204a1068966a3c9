"""The settings that a run can have: which there are, how they are read, checked and documented."""
