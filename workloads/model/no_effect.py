"""The fields of hub configurations that leave every size of the text model unchanged.

A field that is neither read nor here is reported, because it may change a size. Positions, norms' epsilons,
activation functions, training, generation and routing arithmetic change none; encoders of images and sound are not
part of the text model.
"""

from __future__ import annotations

_POSITIONS = """
    max_position_embeddings original_max_position_embeddings initial_context_length model_max_length rope_theta
    rope_scaling rope_parameters rope_interleave rotary_dim partial_rotary_factor swa_rope_theta compress_rope_theta
    rope_local_base_freq attn_temperature_tuning attn_scale floor_scale mla_use_nope
"""
_ARITHMETIC = """
    hidden_act hidden_activation rms_norm_eps layernorm_epsilon layer_norm_eps attention_dropout attention_value_scale
    swiglu_limit final_logit_softcapping attn_logit_softcapping query_pre_attn_scalar hc_eps hc_sinkhorn_iters
    attention_multiplier use_bidirectional_attention output_attentions output_hidden_states pretraining_tp
"""
_ROUTING = """
    norm_topk_prob scoring_func routed_scaling_factor n_group topk_group router_aux_loss_coef router_jitter_noise
    output_router_logits aux_loss_alpha seq_aux ep_size moe_renormalize num_expert_group use_grouped_topk
    moe_router_activation_func router_z_loss_coef
"""
_TRAINING_AND_FILES = """
    architectures model_type initializer_range use_cache transformers_version auto_map _name_or_path return_dict
    bos_token_id eos_token_id pad_token_id sep_token_id tokenizer_class id2label label2id problem_type
    is_encoder_decoder chunk_size_feed_forward for_llm_compressor
"""
_OTHER_MODALITIES = """
    vision_config audio_config image_token_id video_token_id audio_token_id vision_start_token_id vision_end_token_id
    image_token_index boi_token_id eoi_token_id boa_token_id eoa_token_id eoi_token_index boi_token_index
    eoa_token_index vision_soft_tokens_per_image mm_tokens_per_image
"""
_MULTI_TOKEN_PREDICTION = """
    use_mtp mtp_transformer_layers num_mtp_modules mtp_use_dedicated_embeddings
"""

NO_EFFECT = frozenset(
    " ".join(
        (_POSITIONS, _ARITHMETIC, _ROUTING, _TRAINING_AND_FILES, _OTHER_MODALITIES, _MULTI_TOKEN_PREDICTION)
    ).split()
)
