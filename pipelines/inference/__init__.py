"""A checkpoint evaluated as it is used: votes, the critic's choice, verify-and-redo, by tokens."""
