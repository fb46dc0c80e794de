"""`pmc thermal`: scenarios of the TAS-MoE study, from their files to tables, pictures and a page."""
