//! Compiles the shim (`shim/main.rs`) into a tiny program of its own, which the container driver carries inside itself: yun stays one file.

use std::{env, path::PathBuf, process::Command};

/// Small before fast: the shim sleeps nearly all of its life. A fixed load address spares it the pages that relocation would write to.
const FLAGS: &[&str] = &[
    "--edition=2024",
    "--crate-name=yun_shim",
    "--crate-type=bin",
    "-Copt-level=s",
    "-Cpanic=abort",
    "-Cstrip=symbols",
    "-Clto=fat",
    "-Ccodegen-units=1",
    "-Crelocation-model=static",
];

fn main() {
    println!("cargo:rerun-if-changed=shim");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("shim");
    // A static program starts faster and shares no library's writable pages; a host without libc.a gets the other kind.
    if !compile(&out, &["-Ctarget-feature=+crt-static"]) {
        println!(
            "cargo:warning=no static C library here: the container shim is linked dynamically and takes more memory"
        );
        assert!(compile(&out, &[]), "the container shim does not compile");
    }
}

/// Runs the compiler once; true if it made the program.
fn compile(out: &PathBuf, more: &[&str]) -> bool {
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let mut command = Command::new(rustc);
    command.args(FLAGS).args(more).arg("--target").arg(target).arg("-o").arg(out).arg("shim/main.rs");
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut flag = std::ffi::OsString::from("-Clinker=");
        flag.push(linker);
        command.arg(flag);
    }
    command.status().is_ok_and(|status| status.success())
}
