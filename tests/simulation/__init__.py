"""The whole control-to-agent path in simulated time: real workflows and keepers, twins of everything that acts."""
