// RUN: pmc opt %s -p "annotate-shardings{tp=2 dp=4},insert-collectives" | filecheck %s
// RUN: pmc opt %s -p "annotate-shardings{tp=2 dp=4 sp=true},insert-collectives" | filecheck %s --check-prefix=SP

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
