"""Analyses: functions from a system or a solution to labelled data, and plots of that data."""
