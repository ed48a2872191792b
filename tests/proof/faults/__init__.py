"""Real workers, API, Valkey and S3 in trouble by a seeded schedule, and an auditor who looks on."""
