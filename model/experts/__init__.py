"""Routers, balance, and the ways to run routed experts."""
