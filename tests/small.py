"""Overrides that shrink a run to seconds and leave its code path whole."""

DATA = (
    "federation.clients=3 data.providers_per_client=2 data.documents_per_provider=2 "
    "data.test_documents=2 data.unseen_providers=2 data.unseen_documents_per_provider=1"
)
RUN = f"{DATA} rounds=2 local_epochs=1"
