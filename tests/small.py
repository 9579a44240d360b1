"""Overrides that shorten a run to seconds without changing its code path."""

DATA = (
    "federation.clients=3 data.providers_per_client=2 data.documents_per_provider=2 "
    "data.test_documents=2 data.unseen_providers=2 data.unseen_documents_per_provider=1 "
    "data.public_documents=6 data.validation_documents=0"
)
RUN = f"{DATA} rounds=2 local_epochs=1"
TOKENS = 1000  # rows of VT5's token embedding
WIDTH = 32
VT5 = (
    f"model=vt5-base-random model.config.vocab_size={TOKENS} model.config.d_model={WIDTH} "
    "model.config.d_kv=8 model.config.d_ff=64 model.config.num_layers=1 "
    "model.config.num_decoder_layers=1 model.config.num_heads=2 model.max_length=64 "
    "model.config.visual.hidden_size=16 model.config.visual.num_hidden_layers=1 "
    "model.config.visual.num_attention_heads=2 model.config.visual.intermediate_size=16 "
    "model.config.visual.image_size=32"
)
