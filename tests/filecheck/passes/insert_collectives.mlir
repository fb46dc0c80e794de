// RUN: pmc opt %s -p "annotate-shardings{tp=2 dp=4},insert-collectives" | filecheck %s
// RUN: pmc opt %s -p "annotate-shardings{tp=2 dp=4 sp=true},insert-collectives" | filecheck %s --check-prefix=SP
// RUN: pmc opt %s -p "annotate-shardings{cp=4},insert-collectives" | filecheck %s --check-prefix=CP
// RUN: pmc opt %s -p "annotate-shardings{cp=4},insert-collectives{ring-exchange=smallest}" | filecheck %s --check-prefix=LATENT

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%t: !layer.tensor<[batch*q_len], i32>):
    %we = layer.weight() {axes = ["vocab", ""]} at "embed.weight" : !layer.tensor<[256, 64], bf16>
    %x = layer.embedding(%t, %we) at "embed" : !layer.tensor<[batch*q_len, 64], bf16>
    %y = layer.repeat 4 from 0 of 4 (%h = %x) at "blocks" : !layer.tensor<[batch*q_len, 64], bf16> {
      %wu = layer.weight() {axes = ["", "ffn"]} at "blocks.up_proj.weight" : !layer.tensor<[64, 128], bf16>
      %u = layer.matmul(%h, %wu) at "blocks.up_proj" : !layer.tensor<[batch*q_len, 128], bf16>
      %wd = layer.weight() {axes = ["ffn", ""]} at "blocks.down_proj.weight" : !layer.tensor<[128, 64], bf16>
      %d = layer.matmul(%u, %wd) at "blocks.down_proj" : !layer.tensor<[batch*q_len, 64], bf16>
      %r = layer.add(%h, %d) at "blocks.residual" : !layer.tensor<[batch*q_len, 64], bf16>
      layer.yield([%r]) at "blocks"
    }
    layer.return([%y]) at "m"
  }
  layer.program() {sym_name = "n", phase = "prefill"} at "n" {
  ^bb0(%q: !layer.tensor<[batch*q_len, 64], bf16>, %cx: !layer.tensor<[batch*q_len, 16], bf16>):
    %cache = layer.state() {axes = ["batch", "position", ""]} at "cache" : !layer.tensor<[batch, kv_len, 16], bf16>
    %c = layer.kv_append(%cache, %cx) at "append" : !layer.tensor<[batch, kv_len, 16], bf16>
    %w = layer.weight() {axes = ["", ""]} at "kv_proj.weight" : !layer.tensor<[16, 128], bf16>
    %kv = layer.matmul(%c, %w) at "kv_proj" : !layer.tensor<[batch, kv_len, 128], bf16>
    %k = layer.slice(%kv) {group = 32, offset = 0, size = 16} at "k" : !layer.tensor<[batch, kv_len, 64], bf16>
    %v = layer.slice(%kv) {group = 32, offset = 16, size = 16} at "v" : !layer.tensor<[batch, kv_len, 64], bf16>
    %z = layer.attention([%q], [%k], %v) {qk_dims = [16], v_dim = 16, q_len = <q_len>, scale = 0.25, causal = true}
      at "attention" : !layer.tensor<[batch*q_len, 64], bf16>
    layer.return([%z]) at "n"
  }
}

// CHECK:      dist.all_reduce(%x) {axis = "tp"} at "embed"
// CHECK:      dist.all_reduce(%d) {axis = "tp"} at "blocks.down_proj"
// CHECK-NOT:  = dist.

// With sequence parallelism a reduce_scatter and an all_gather take the place of each all_reduce.
// SP:         dist.reduce_scatter(%x) {dim = 0, axis = "tp"} at "embed" : {{.*}}, #dist.sharding<{{\[\[}}dp, tp], []]>>
// SP:         [[G:%[0-9a-z]+]] = dist.all_gather(%h) {dim = 0, axis = "tp"} at "blocks.up_proj"
// SP-NEXT:    layer.matmul([[G]], %wu)
// SP:         [[S:%[0-9a-z]+]] = dist.reduce_scatter(%d) {dim = 0, axis = "tp"} at "blocks.down_proj"
// SP-NEXT:    layer.add(%h, [[S]])
// SP-NOT:     all_reduce

// Ranks of cp have every fourth position: each attends to its own keys, then to those of the three ranks before it.
// CP:         [[A:%acc]], [[M:%row_max]], [[S:%row_sum]] = layer.attention_step([%q], [%k], %v, []) {qk_dims = [16], v_dim = 16, q_len = <ceildiv(q_len, 4)>, {{.*}}}
// CP-NEXT:    %k_1, %v_1, %acc_1, %row_max_1, %row_sum_1 = layer.repeat 3 from 1 of 4 as "cp.step" (%k_2 = %k, %v_2 = %v, %acc_2 = [[A]], %row_max_2 = [[M]], %row_sum_2 = [[S]])
// CP-NEXT:      %k_3 = dist.ring_exchange(%k_2) {axis = "cp"} at "attention" : !layer.tensor<[batch, kv_len, 64], bf16, #dist.sharding<{{\[\[}}], [cp], []]>>
// CP-NEXT:      %v_3 = dist.ring_exchange(%v_2) {axis = "cp"} at "attention"
// CP-NEXT:      %acc_3, %row_max_3, %row_sum_3 = layer.attention_step([%q], [%k_3], %v_3, [%acc_2, %row_max_2, %row_sum_2]) {hidden = <floordiv(-cp.rank + cp.step + 3, 4)>,
// CP-NEXT:      layer.yield([%k_3, %v_3, %acc_3, %row_max_3, %row_sum_3]) at "attention"
// CP-NEXT:    }
// CP-NEXT:    %z = layer.attention_finish(%acc_1, %row_sum_1) at "attention" : !layer.tensor<[batch*q_len, 64], bf16, #dist.sharding<{{\[\[}}cp], []]>>

// 16 columns are less than keys and values of 64 each, which every step computes from them.
// LATENT:     layer.attention_step([%q], [%k], %v, [])
// LATENT-NEXT: layer.repeat 3 from 1 of 4 as "cp.step" (%c_2 = %c, %acc_2 = %acc,
// LATENT-NEXT:   %c_3 = dist.ring_exchange(%c_2) {axis = "cp"} at "attention" : !layer.tensor<[batch, kv_len, 16]
// LATENT-NEXT:   [[KV:%[0-9a-z_]+]] = layer.matmul(%c_3, %w) at "kv_proj.of_step"
// LATENT-NEXT:   [[K:%[0-9a-z_]+]] = layer.slice([[KV]]) {group = 32, offset = 0, size = 16} at "k.of_step"
// LATENT-NEXT:   [[V:%[0-9a-z_]+]] = layer.slice([[KV]]) {group = 32, offset = 16, size = 16} at "v.of_step"
// LATENT-NEXT:   layer.attention_step([%q], [[[K]]], [[V]], [%acc_2, %row_max_2, %row_sum_2])
