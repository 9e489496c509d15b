"""Mixture of experts: routing, balance, and the ways to compute the routed experts."""
