"""What runs behind the scenes: relay of events, delivery of webhooks, reaper of leases, autoscaler."""
