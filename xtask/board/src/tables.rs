//! The kernel tables of the engine, as tasks know them without building it.

/// A kernel table; see `rill::kernels`, whose tables these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// As in `--kernels NAME`.
    pub name: &'static str,
    /// The CPU features that it executes, as a board's `cpu.features` names them.
    pub needs: &'static [&'static str],
    /// CPUs whose best table it is: of QEMU for aarch64, of Bochs for x86-64, where that has some.
    pub emulated: &'static [&'static str],
}

/// Every table, those of an architecture from the least able on.
pub const TABLES: [Table; 7] = [
    Table { name: "scalar", needs: &[], emulated: &[] },
    Table { name: "neon", needs: &["neon"], emulated: &["cortex-a53", "cortex-a72"] },
    Table { name: "dotprod", needs: &["neon", "dotprod"], emulated: &["cortex-a76"] },
    Table { name: "i8mm", needs: &["neon", "dotprod", "i8mm"], emulated: &["max"] },
    Table { name: "avx2", needs: &["avx2"], emulated: &[] },
    Table { name: "avxvnni", needs: &["avx2", "avx-vnni"], emulated: &["arrow_lake"] },
    Table { name: "avx512vnni", needs: &["avx2", "avx512-vnni"], emulated: &["corei7_icelake_u"] },
];

impl Table {
    /// Whether it is for aarch64.
    pub fn is_arm(&self) -> bool {
        self.needs.contains(&"neon")
    }
}
