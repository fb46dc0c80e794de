// RUN: pmc opt %s -p 'trace-experts,place-experts{strategy="taps"}' | filecheck %s
// RUN: pmc opt %s -p 'trace-experts,place-experts{strategy="identity"}' | filecheck %s --check-prefix=IDENTITY

builtin.module attributes {
  arch.stacked = #arch.stacked<{name = "arch_8x8_32x32x8", unvalidated = ["mesh", "dram", "geometry", "cooling", "dvfs", "refresh", "power", "mesh.cores", "dram.banks"], mesh = {cores = [2, 2], noc = {topology = "mesh", width_bits = 256, clock_ghz = 2.0, link_latency_ns = 5.0}}, dram = {banks = [4, 4, 2], page_kb = 8.0, bank_capacity_mb = 64.0}, geometry = {macro_size_mm = [5.0, 2.0], logic = "far", layers = {logic = {thickness_um = 50.0, k_wmk = 120.0, c_jm3k = 1750000.0}, dram = {thickness_um = 50.0, k_wmk = 2.0, c_jm3k = 1750000.0}, tim = {thickness_um = 20.0, k_wmk = 5.0, c_jm3k = 4000000.0}}, grid = [8, 8], map_mode = "avg", convention = "hotspot6"}, cooling = {type = "air", h_wmk2k = 10000.0, h_area_mm2 = 640.0, c_convec_jk = 140.4, ambient_c = 45.0, spreader = {side_mm = 50.0, thickness_mm = 1.0, k_wmk = 400.0, c_jm3k = 3550000.0}, sink = {side_mm = 60.0, thickness_mm = 6.9, k_wmk = 400.0, c_jm3k = 3550000.0}, board = none}, dvfs = {domains = [{cores = "all", steps_ghz = [2.0, 1.8, 1.6, 1.2], voltage_v = [1.0, 0.95, 0.9, 0.8], trip_c = [80.0, 85.0, 90.0], hysteresis_c = 3.0}]}, refresh = {tref_base_us = 7.8, trfc_ns = 350.0, tref_curve = [[40.0, 1.0], [55.0, 2.0], [70.0, 4.0], [85.0, 8.0]]}, power = {pj_per_flop = 1.0, pj_per_dram_byte = 321.0, nj_per_refresh = 3.55, pj_per_noc_byte_hop = 8.0, core_leakage = {reference_w = 0.1, reference_c = 45.0, doubles_every_k = 25.0}, bank_leakage = {reference_w = 0.0005, reference_c = 45.0, doubles_every_k = 25.0}, run_away_c = 150.0}}>,
  trace.tas = #trace.tas<{taps = {objective = {w_peak = 1.0, w_var = 0.2, w_smooth = 0.1}, capacity = {core_flops_tps = 5000000000000.0, bank_bw_gbps = 25.0, migration_bw_gbps = 2.0}, replicate_hot_k = 1}, tacs = {window_ms = 3.0, thresholds = {Thot = 80.0, Temg = 90.0}, gamma_load = 1.0, q_target = 0.7, cost = {lambda_hops = 1.0, mu_noc = 2.0, eta_temp = 1.5}, top_k = 8, radius_hops = 4, max_parallel_migrations = 4, min_residency_ms = 15.0, cool_down_ms = 15.0, noc_guard = 0.8, smoothing = 0.5}}>,
  trace.workload = #trace.workload<{model = "mixtral-8x7b", routing = {experts = 4, topk = 2, seed = 42, zipf_s = 1.2, gini = none, drift = none}, sequence = {tokens = 2048, micro_batch = 1, steps = 2, interval_ms = 3.0}, operators = {fc = {flop_per_token = 2500000000.0, weight_bytes_per_token = 1048576}, attn = {flop_per_token = 1000000000.0, kv_bytes_per_token = 4096}}, tensors = {weight_shard_mb = 64.0, shards_per_expert = 2}}>
} {
}

// By heat: the hottest expert gets a second core, and weights lie in banks over the first core of their expert.
// CHECK:      trace.logical()
// CHECK:      trace.placement() {strategy = "taps", experts = #trace.table<experts, [expert, cores, policy], 4 rows
// CHECK-SAME: 'E0' [{{[0-3]}}] single; 'E1' [{{[0-3]}}] single; 'E2' [{{[0-3] [0-3]}}] replicate; 'E3' [{{[0-3]}}] single
// CHECK-SAME: tensors = #trace.table<tensors, [tensor_id, dram_bank], 8 rows
// CHECK-SAME: 'W_E0_0' 'B({{[0-3],[0-3],[01]}})'

// By number: a core each, and the first banks over it.
// IDENTITY:      trace.placement() {strategy = "identity"
// IDENTITY-SAME: 'E0' [0] single; 'E1' [1] single; 'E2' [2] single; 'E3' [3] single
// IDENTITY-SAME: 'W_E0_0' 'B(0,0,0)'; 'W_E0_1' 'B(1,0,0)'; 'W_E1_0' 'B(2,0,0)'; 'W_E1_1' 'B(3,0,0)'
