"""LoRA-SB: W0 + alpha/r B R A, of which only R is trained and sent."""
