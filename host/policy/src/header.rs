//! What a component is, imports and exports, read before anything of it is compiled.

use wasmparser::{Chunk, Encoding, Parser, Payload};

use crate::gate::LoadError;
use crate::kind::{Kind, PACKAGE, PACKAGE_VERSION};

/// Names at the top of a component.
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

impl Header {
    /// The kinds of policy that it exports, in the version of this host.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        Kind::ALL.into_iter().filter(|kind| self.exports.contains(&kind.interface()))
    }
}

/// Refuses what cannot be a policy of this kind.
pub(crate) fn check(component: &[u8], kind: Kind) -> Result<(), LoadError> {
    let header = read(component)?;
    let forbidden: Vec<String> =
        header.imports.iter().filter(|name| !name.starts_with(PACKAGE)).cloned().collect();
    if !forbidden.is_empty() {
        return Err(LoadError::ForbiddenImport { imports: forbidden });
    }
    let mut ours = header.imports.iter().chain(&header.exports).filter(|n| n.starts_with(PACKAGE));
    let other = ours.find_map(|name| version(name).filter(|version| *version != PACKAGE_VERSION));
    if let Some(found) = other {
        return Err(LoadError::Version { found: found.to_string() });
    }
    if header.kinds().any(|found| found == kind) {
        return Ok(());
    }
    let found: Vec<&str> = header.kinds().map(Kind::name).collect();
    let found = match found.as_slice() {
        [] => format!("it does not export {} (did it call the SDK's macro?)", kind.interface()),
        names => format!("it is a {} policy", names.join(" and ")),
    };
    Err(LoadError::World { expected: kind, found })
}

/// The part of a name after `@`.
fn version(name: &str) -> Option<&str> {
    name.rsplit_once('@').map(|(_, version)| version)
}

/// Reads the names of the outermost component and nothing within.
pub(crate) fn read(component: &[u8]) -> Result<Header, LoadError> {
    let bad =
        |error: wasmparser::BinaryReaderError| LoadError::NotWasm(error.message().to_string());
    let mut header = Header::default();
    let (mut parser, mut rest) = (Parser::new(0), component);
    loop {
        let (consumed, payload) = match parser.parse(rest, true).map_err(bad)? {
            Chunk::Parsed { consumed, payload } => (consumed, payload),
            Chunk::NeedMoreData(_) => {
                return Err(LoadError::NotWasm("it ends in the middle".to_string()));
            }
        };
        rest = &rest[consumed..];
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => {
                return Err(LoadError::CoreModule);
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    header.imports.push(import.map_err(bad)?.name.name.to_string());
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    header.exports.push(export.map_err(bad)?.name.name.to_string());
                }
            }
            Payload::ModuleSection { unchecked_range, .. }
            | Payload::ComponentSection { unchecked_range, .. } => {
                let inner = unchecked_range.end - unchecked_range.start;
                let cut = || LoadError::NotWasm("it ends in the middle".to_string());
                rest = rest.get(inner..).ok_or_else(cut)?;
            }
            Payload::End(_) => return Ok(header),
            _ => {}
        }
    }
}
