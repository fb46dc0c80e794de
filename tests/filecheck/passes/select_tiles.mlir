// RUN: pmc opt %s --chip sg2262 --accounting physical -p "select-tiles" | filecheck %s
// RUN: pmc opt %s -p "select-tiles" --verify-diagnostics | filecheck %s --check-prefix=CHIP
// RUN: pmc opt %s --chip sg2262 -p "select-tiles" --verify-diagnostics | filecheck %s --check-prefix=ACCOUNTING
// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles" --verify-diagnostics | filecheck %s --check-prefix=PLAN

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[64, 4096], bf16>):
    %w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[4096, 1024], bf16>
    %y = layer.matmul(%x, %w) at "proj" : !layer.tensor<[64, 1024], bf16>
    layer.return([%y]) at "m"
  }
}

// Every core gets all rows, so the weights are read once.
// CHECK: layer.matmul(%x, %w) at "proj" attributes {tile.plan = #tile.plan<cores [1, 1, 8, 8], tile [64, 128, 256], order "gmnk", slots 2, multicast [a, b], merge dram>}

// CHIP: select-tiles: {{.*}}arch.chip

// ACCOUNTING: select-tiles: {{.*}}arch.accounting

// PLAN: lower-to-tiles: layer.matmul at 'proj' has no plan, run select-tiles before
