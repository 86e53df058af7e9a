"""What the fleet has cost, reckoned from the ledger: pure, for people and for programs."""
