"""The embedded task: synthetic invoices with questions."""
