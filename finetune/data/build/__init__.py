"""Rows written by a teacher, which is a bigger model at an endpoint or on this machine."""
