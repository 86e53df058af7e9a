"""The shipped loop on a virtual clock, against the emulated services in this process."""
