"""A simulated cloud: cards, servers, a fleet, seeded and with faults to set."""
