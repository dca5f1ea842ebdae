"""Support sampling, hypernetworks and episodic evaluation."""
