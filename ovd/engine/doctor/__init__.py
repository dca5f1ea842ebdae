"""What is installed, what the machine has, what data is there, and what a config still needs; no error is one here.

Nothing raises for a broken file or a missing library: that is what is to be found. What loads torch runs in processes
of its own (:mod:`ovd.engine.doctor.probe`), so that a library that ends its process is a finding too.
"""
