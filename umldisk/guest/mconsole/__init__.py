"""mconsole, the management console of a UML kernel: its packets, its commands, and a client for them."""
