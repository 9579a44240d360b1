"""Simulations on this machine: a SuperLink, Ray and warm processes of our own."""
