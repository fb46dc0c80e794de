// RUN: pmc opt %s -p trace-experts,shorten-tables | filecheck %s

builtin.module attributes {
  trace.workload = #trace.workload<{model = "mixtral-8x7b", routing = {experts = 4, topk = 2, seed = 42, zipf_s = 1.2, gini = none, drift = none}, sequence = {tokens = 2048, micro_batch = 1, steps = 5, interval_ms = 3.0}, operators = {fc = {flop_per_token = 2500000000.0, weight_bytes_per_token = 1048576}, attn = {flop_per_token = 1000000000.0, kv_bytes_per_token = 4096}}, tensors = {weight_shard_mb = 64.0, shards_per_expert = 2}}>
} {
}

// Of ten events the first and last four; the weights of four experts are whole.
// CHECK:      compute = #trace.table<compute, {{.*}}, 10 rows, {{.*}}; 4 3000000 1 1 [] [1000000000.0] attn; 7 9000000 3 3
// CHECK-SAME: weights = #trace.table<weights, [expert, shards, shard_bytes], 4 rows, {{.*}}["'E0' 2 67108864; {{.*}}'E3' 2 67108864"]
