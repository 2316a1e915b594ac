//! Programs out of unpacked packages, with the libraries that they are linked to: what an initial file system needs of a distribution.

use super::cpio::Cpio;
use crate::image::{job::Job, tool::Tool};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use yun_drivers::{DriverError, Result};

/// Files for an initial file system, by their names in it.
#[derive(Debug, Default)]
pub(super) struct Programs {
    files: BTreeMap<String, PathBuf>,
}

impl Programs {
    /// Takes a program out of the packages under `root` and finds its libraries there.
    pub(super) async fn add(&mut self, root: &Path, program: &str, name: &str, job: &Job) -> Result<()> {
        let places = [program.to_owned(), format!("usr/{program}")].map(|p| root.join(p));
        let path = places
            .into_iter()
            .find(|p| p.is_file())
            .ok_or_else(|| changed(&format!("the packages hold no {program}")))?;
        self.files.insert(name.to_owned(), path.clone());
        let directories = library_directories(root);
        let loader = loader(&directories).ok_or_else(|| changed("the package libc6 holds no dynamic loader"))?;
        // The packages' own loader says which files it would load; the node's libraries are none of them.
        let listed = Tool::new("env", "coreutils", Duration::from_secs(20))
            .arg(&loader)
            .args(["--inhibit-cache", "--library-path"])
            .arg(std::env::join_paths(&directories).unwrap_or_default())
            .arg("--list")
            .arg(&path)
            .run(job)
            .await?;
        for library in listed.lines().filter_map(|l| l.split_once(" => ")?.1.split(" (").next()).map(str::trim) {
            let path = Path::new(library);
            if !path.starts_with(root) {
                return Err(changed(&format!("{program} needs {library}, which the packages do not hold")));
            }
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            self.files.insert(format!("lib/{file}"), path.to_owned());
        }
        let interpreter = interpreter(&path)?;
        self.files.insert(interpreter.trim_start_matches('/').to_owned(), loader);
        Ok(())
    }

    /// Puts all of it into an initial file system.
    pub(super) fn write(&self, cpio: &mut Cpio) -> Result<()> {
        for (name, path) in &self.files {
            let content = fs::read(path).map_err(|e| DriverError::io(format!("read {}", path.display()), e))?;
            cpio.file(name, 0o755, &content);
        }
        Ok(())
    }
}

fn changed(what: &str) -> DriverError {
    DriverError::unavailable(
        "PackageChanged",
        format!("cannot put the guest together: {what}; this release is not known here"),
    )
}

/// The directories of the packages that hold libraries.
fn library_directories(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in ["lib", "usr/lib"] {
        let listed = fs::read_dir(root.join(place)).into_iter().flatten().flatten();
        found.extend(listed.map(|e| e.path()).filter(|p| p.is_dir() && p.to_string_lossy().ends_with("-linux-gnu")));
    }
    found.sort();
    found
}

fn loader(directories: &[PathBuf]) -> Option<PathBuf> {
    let named = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ld-linux"));
    directories.iter().filter_map(|d| fs::read_dir(d).ok()).flatten().flatten().map(|e| e.path()).find(named)
}

/// Where a program looks for its loader (ELF, program header `PT_INTERP`): a string that begins with `/lib`.
fn interpreter(program: &Path) -> Result<String> {
    let content = fs::read(program).map_err(|e| DriverError::io(format!("read {}", program.display()), e))?;
    let at = content.windows(4).position(|w| w == b"/lib").ok_or_else(|| changed("a program names no loader"))?;
    let text = content[at..].split(|b| *b == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}
