"""Programmable simulated FPGA cards for Cyborg."""
