"""The ledger: what was called, with how many tokens, and what may still be spent. The home of SQLite."""
