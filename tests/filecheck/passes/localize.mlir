// RUN: pmc opt %s -p "annotate-shardings{tp=2 dp=4},insert-collectives,localize" | filecheck %s
// RUN: pmc opt %s -p "annotate-shardings{tp=2},localize" --verify-diagnostics | filecheck %s --check-prefix=EARLY
// RUN: pmc opt %s -p "annotate-shardings{cp=4 dp=2},insert-collectives,localize" | filecheck %s --check-prefix=CP

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
  ^bb0(%x: !layer.tensor<[batch*q_len, 32], bf16>):
    %cache = layer.state() {axes = ["batch", "position", "kv_heads"]} at "cache" : !layer.tensor<[batch, kv_len, 32], bf16>
    %k = layer.kv_append(%cache, %x) at "append" : !layer.tensor<[batch, kv_len, 32], bf16>
    %wq = layer.weight() {axes = ["", "heads"]} at "q_proj.weight" : !layer.tensor<[32, 32], bf16>
    %q = layer.matmul(%x, %wq) at "q_proj" : !layer.tensor<[batch*q_len, 32], bf16>
    %z = layer.attention([%q], [%k], %k) {qk_dims = [16], v_dim = 16, q_len = <q_len>, scale = 0.25, causal = true}
      at "attention" : !layer.tensor<[batch*q_len, 32], bf16>
    layer.return([%z]) at "n"
  }
}

// One rank holds a quarter of the sequences, half of the vocabulary and half of the ffn width.
// CHECK:      ^bb0(%t: !layer.tensor<[ceildiv(batch, 4)*q_len], i32>):
// CHECK:      %we = layer.weight() {{.*}} attributes {dist.sharding = #dist.sharding<{{\[\[}}tp], []]>} : !layer.tensor<[128, 64], bf16>
// CHECK-NEXT: %x = layer.embedding(%t, %we) {vocab_axis = "tp"} {{.*}}, #dist.partial<tp>>
// CHECK:      %wu = layer.weight() {{.*}} : !layer.tensor<[64, 64], bf16>
// CHECK-NEXT: %u = layer.matmul(%h, %wu) {{.*}} : !layer.tensor<[ceildiv(batch, 4)*q_len, 64], bf16>
// CHECK-NEXT: %wd = layer.weight() {{.*}} : !layer.tensor<[64, 64], bf16>
// CHECK-NEXT: %d = layer.matmul(%u, %wd) {{.*}}, #dist.partial<tp>>
// CHECK-NEXT: dist.all_reduce(%d) {axis = "tp"} {{.*}} : !layer.tensor<[ceildiv(batch, 4)*q_len, 64], bf16>
// CHECK:      !layer.tensor<[batch*q_len, 64], bf16, #dist.sharding<{{\[\[}}dp], []]>>

// EARLY: localize: {{.*}} run insert-collectives first

// A rank of cp has a quarter of every sequence, of the queries and of the cache, and sends on as much of keys and values.
// CP:         layer.program() {sym_name = "n", {{.*}} attributes {dist.arguments = [#dist.sharding<{{\[\[}}dp, cp], []]>]}
// CP-NEXT:    %x: !layer.tensor<[ceildiv(batch, 2)*ceildiv(q_len, 4), 32], bf16>
// CP-NEXT:    layer.state() {{.*}} attributes {dist.sharding = #dist.sharding<{{\[\[}}dp], [cp], []]>} : !layer.tensor<[ceildiv(batch, 2), ceildiv(kv_len, 4), 32], bf16>
// CP:         layer.repeat 3 from 1 of 4 as "cp.step" (%k_2 = %k,
// CP-NEXT:      dist.ring_exchange(%k_2) {axis = "cp"} at "attention" : !layer.tensor<[ceildiv(batch, 2), ceildiv(kv_len, 4), 32], bf16>
// CP:         layer.attention_finish({{.*}} : !layer.tensor<[ceildiv(batch, 2)*ceildiv(q_len, 4), 32], bf16>
// CP-NEXT:    layer.return([%z]) at "n" attributes {dist.results = [!layer.tensor<[batch*q_len, 32], bf16, #dist.sharding<{{\[\[}}dp, cp], []]>>]}
