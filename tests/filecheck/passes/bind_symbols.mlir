// RUN: pmc opt %s -p "bind-symbols{batch=8 q-len=2}" | filecheck %s
// RUN: pmc opt %s -p "bind-symbols{batch=8}" --verify-diagnostics | filecheck %s --check-prefix=MISSING
// RUN: pmc opt %s -p "annotate-shardings{cp=4},insert-collectives,localize,bind-symbols{batch=2 q-len=8}" | filecheck %s --check-prefix=CP
// RUN: pmc opt %s -p "annotate-shardings{cp=4},bind-symbols{batch=2 q-len=6}" --verify-diagnostics | filecheck %s --check-prefix=UNEVEN

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
  ^bb0(%k: !layer.tensor<[batch*q_len, 32], bf16>):
    %r = layer.rope(%k) {head_dim = 16, theta = 1.0e4, interleaved = false, q_len = <q_len>, kv_len = <q_len>}
      at "rope" : !layer.tensor<[batch*q_len, 32], bf16>
    layer.return([%r]) at "n"
  }
}

// CHECK:      ^bb0(%t: !layer.tensor<[16], i32>):
// CHECK:      layer.embedding({{.*}} : !layer.tensor<[16, 64], bf16>
// CHECK:      layer.matmul(%h, %wu) {{.*}} : !layer.tensor<[16, 128], bf16>
// CHECK-NOT:  q_len]

// MISSING: bind-symbols: {{.*}}q_len

// The number of a rank is no length: the program is that of all ranks.
// CP:         %k: !layer.tensor<[4, 32], bf16>
// CP-NEXT:    layer.rope(%k) {{.*}}q_len = <2>, kv_len = <2>, stride = 4, first = <cp.rank>

// UNEVEN: bind-symbols: q_len = 6 is not a multiple of cp = 4, which splits every sequence evenly
