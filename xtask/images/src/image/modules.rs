//! Modules of a Linux kernel and what they depend on.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

/// The modules of an unpacked kernel package.
pub struct Modules {
    files: HashMap<String, PathBuf>,
    built_in: HashSet<String>,
}

impl Modules {
    /// Finds the modules of a version.
    pub fn open(packages: &Path, version: &str) -> Result<Self> {
        let folder = ["lib/modules", "usr/lib/modules"]
            .map(|folder| packages.join(folder).join(version))
            .into_iter()
            .find(|folder| folder.is_dir())
            .with_context(|| format!("the packages have no modules for Linux {version}"))?;
        let list = folder.join("modules.builtin");
        let list = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        let built_in = list.lines().filter_map(|line| name_of(Path::new(line))).collect();
        let mut files = HashMap::new();
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if let Some(name) = name_of(&path) {
                    files.insert(name, path);
                }
            }
        }
        Ok(Self { files, built_in })
    }

    /// File names and contents of these modules and of all that they depend on; each comes after
    /// what it depends on. Those that the kernel has built in are left out.
    pub fn with_dependencies<'a>(
        &self,
        wanted: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        for name in wanted {
            self.visit(&name.replace('-', "_"), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        seen: &mut HashSet<String>,
        order: &mut Vec<(String, Vec<u8>)>,
    ) -> Result<()> {
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("the kernel has no module {name}");
        };
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let needs = depends(&bytes).with_context(|| path.display().to_string())?;
        for name in needs {
            self.visit(&name, seen, order)?;
        }
        order.push((format!("{name}.ko"), bytes));
        Ok(())
    }
}

/// A module's name; `None` for another file.
fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

/// What a module depends on: the field `depends` of its section `.modinfo`.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("no section .modinfo")?;
    let info = String::from_utf8_lossy(section.data()?).into_owned();
    let depends = info.split('\0').find_map(|field| field.strip_prefix("depends="));
    let names = depends.unwrap_or_default().split(',').filter(|name| !name.is_empty());
    Ok(names.map(|name| name.replace('-', "_")).collect())
}
