"""Who is asking the service, for which tenants, and what they may do."""
