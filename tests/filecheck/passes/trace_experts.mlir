// RUN: pmc opt %s -p trace-experts | filecheck %s

builtin.module attributes {
  trace.workload = #trace.workload<{model = "mixtral-8x7b", routing = {experts = 4, topk = 2, seed = 42, zipf_s = 1.2, gini = none, drift = none}, sequence = {tokens = 2048, micro_batch = 1, steps = 2, interval_ms = 3.0}, operators = {fc = {flop_per_token = 2500000000.0, weight_bytes_per_token = 1048576}, attn = {flop_per_token = 1000000000.0, kv_bytes_per_token = 4096}}, tensors = {weight_shard_mb = 64.0, shards_per_expert = 2}}>
} {
}

// Two tokens, each with two of four experts and attention; shards of weights are taken in turn.
// CHECK:      trace.logical() {micro_batch = 1, compute = #trace.table<compute, [event_id, t_gen_ns, mb_id, token_id, experts_json, flops_json, op_type], 4 rows
// CHECK-SAME: 1 0 0 0 [{{'E[0-3]' 'E[0-3]'}}] [1250000000.0 1250000000.0] fc; 2 0 0 0 [] [1000000000.0] attn; 3 3000000 1 1
// CHECK-SAME: memory = #trace.table<memory, [event_id, tensor_id, access, bytes, locality_hint], 8 rows
// CHECK-SAME: 1 'W_E{{[0-3]}}_0' read 1048576 'shard0'; {{.*}}2 'KV_S0' read 8388608 'kv'; 2 'KV_S0' write 4096 'kv'
// CHECK-SAME: weights = #trace.table<weights, [expert, shards, shard_bytes], 4 rows
// CHECK-SAME: at "mixtral-8x7b"
