"""The study: each experiment a plan (which jobs to train) and a reading of its results.

Plans and readings are plain functions; running them is the business of pipeline/.
"""
