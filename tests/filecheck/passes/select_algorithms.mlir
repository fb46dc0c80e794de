// RUN: pmc opt %s --chip sg2262 --topology p1-r1-b4-c32 --accounting physical -p "select-algorithms" | filecheck %s
// RUN: pmc opt %s --chip sg2262 --topology p1-r1-b4-c32 --accounting ds-tpu -p "select-algorithms" | filecheck %s --check-prefix=TPU
// RUN: pmc opt %s --chip sg2262 --topology p1-r1-b4-c32 -p "select-algorithms" --verify-diagnostics | filecheck %s --check-prefix=ACCOUNTING
// RUN: pmc opt %s --chip sg2262 --accounting physical -p "select-algorithms" --verify-diagnostics | filecheck %s --check-prefix=TOPOLOGY

builtin.module attributes {dist.mesh = #dist.mesh<32 ranks, tp = 8 stride 1, all = 32 stride 1>} {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[16, 32], bf16, #dist.partial<tp>>, %y: !layer.tensor<[16384, 4096], bf16, #dist.partial<all>>,
       %z: !layer.tensor<[16384, 4096], bf16, #dist.partial<tp>>):
    %a = dist.all_reduce(%x) {axis = "tp"} at "small" : !layer.tensor<[16, 32], bf16>
    %b = dist.all_reduce(%y) {axis = "all"} at "across" : !layer.tensor<[16384, 4096], bf16>
    %c = dist.all_reduce(%z) {axis = "tp", algorithm = #dist.flat_ring} at "named" : !layer.tensor<[16384, 4096], bf16>
    layer.return([%a, %b, %c]) at "m"
  }
}

// One message for a kilobyte; across boards a board first, so that every link between boards carries an eighth.
// CHECK: dist.all_reduce(%x) {axis = "tp", algorithm = #dist.one_shot} at "small"
// CHECK: dist.all_reduce(%y) {axis = "all", algorithm = #dist.two_level<inner = 8, direct = both>} at "across"
// CHECK: dist.all_reduce(%z) {axis = "tp", algorithm = #dist.flat_ring} at "named"

// The published protocol goes by the size of the group alone.
// TPU: dist.all_reduce(%x) {axis = "tp", algorithm = #dist.two_level<inner = 4>} at "small"
// TPU: dist.all_reduce(%y) {axis = "all", algorithm = #dist.two_level<inner = 4>} at "across"
// TPU: dist.all_reduce(%z) {axis = "tp", algorithm = #dist.flat_ring} at "named"

// ACCOUNTING: select-algorithms: {{.*}}arch.accounting

// TOPOLOGY: dist.all_reduce at 'small': the module has no attribute 'arch.topology'
