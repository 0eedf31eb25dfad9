"""Kafka in, Kafka out: events, histories, the loop, settings, metrics and the command. No torch in here."""
