"""Telling people about promotions: durable messages to webhooks, chats and e-mail."""
