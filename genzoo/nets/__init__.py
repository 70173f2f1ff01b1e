"""Architectures without losses: a net knows shapes, never what it is trained for."""
