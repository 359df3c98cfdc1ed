"""Checkpoints in the format that DiffusionGemma was released in (Google, 2026), without `transformers`.

    FOLDER/config.json               sizes; both spellings of the sizes of full layers are understood
    FOLDER/generation_config.json    end and padding tokens; optional
    FOLDER/model.safetensors         weights, or shards named by model.safetensors.index.json

Linear layers may be quantised, see quantisation.py; quantise.py writes such a checkpoint.

The files store the text weights once, under the decoder; the encoder adds one number for each layer. The vision tower
is not loaded, but `save_pretrained` copies it, and the tokenizer and processor files with it.
"""
