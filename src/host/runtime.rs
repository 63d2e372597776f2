//! Parameters that can be changed while the server runs, by Kamailio's configuration framework (`cfg.set_now_int cassandra ...`).

use std::ffi::CStr;
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::sys;

/// A group of whole numbers. Kamailio gives each process its own current values.
#[derive(Debug)]
pub(crate) struct Group<const N: usize> {
    /// What `modparam` sets and the framework starts from.
    initial: [AtomicI32; N],
    /// Where this process's current values are; null until the group is declared.
    current: AtomicPtr<c_void>,
}

/// One parameter of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Definition {
    /// Its name, also as modparam.
    pub(crate) name: &'static CStr,
    /// Smallest value allowed.
    pub(crate) min: c_int,
    /// Largest value allowed.
    pub(crate) max: c_int,
    /// What `cfg.help` says.
    pub(crate) help: &'static CStr,
}

impl<const N: usize> Group<N> {
    /// A group with its defaults.
    pub(crate) const fn new(defaults: [c_int; N]) -> Self {
        let mut initial = [const { AtomicI32::new(0) }; N];
        let mut index = 0;
        while index < N {
            initial[index] = AtomicI32::new(defaults[index]);
            index += 1;
        }
        Self { initial, current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The table row that makes the parameter at `index` a target of `modparam`.
    pub(crate) const fn export(&'static self, index: usize, name: &'static CStr) -> sys::param_export_t {
        super::params::number_row(name, self.initial[index].as_ptr())
    }

    /// The value at `index` as it was at the start.
    pub(crate) fn initial(&self, index: usize) -> c_int {
        self.initial[index].load(Ordering::Relaxed)
    }

    /// The value at `index` as it is now.
    pub(crate) fn get(&self, index: usize) -> c_int {
        let current = self.current.load(Ordering::Relaxed).cast::<c_int>();
        if current.is_null() || index >= N {
            return self.initial(index);
        }
        // SAFETY: once declared it points to the group's block, which is `N` ints in the order of the definitions; the block
        // is replaced, and the old one freed, only by this process's own `cfg_update`.
        unsafe { *current.add(index) }
    }

    /// Declares the group. In `mod_init`, when `modparam` is through.
    ///
    /// # Errors
    /// A sentence, when Kamailio refuses.
    pub(crate) fn declare(&'static self, group: &'static CStr, definitions: &[Definition; N]) -> Result<(), String> {
        let rows = definitions.iter().map(|definition| sys::cfg_def_t {
            name: definition.name.as_ptr().cast_mut(),
            type_: sys::CFG_VAR_INT | sys::CFG_INPUT_INT | sys::CFG_ATOMIC,
            min: definition.min,
            max: definition.max,
            on_change_cb: None,
            on_set_child_cb: None,
            descr: definition.help.as_ptr().cast_mut(),
        });
        // SAFETY: all-zero is the row that ends a table.
        let end: sys::cfg_def_t = unsafe { std::mem::zeroed() };
        // Kamailio keeps pointers into the table.
        let table = rows.chain([end]).collect::<Vec<_>>().leak();
        let size = c_int::try_from(size_of::<[AtomicI32; N]>()).unwrap_or_default();
        // SAFETY: the table, the values and the handle live for ever; the values are `N` ints, as the table says.
        let declared = unsafe {
            sys::cfg_declare(
                group.as_ptr().cast_mut(),
                table.as_mut_ptr(),
                (&raw const self.initial).cast_mut().cast(),
                size,
                self.current.as_ptr(),
            )
        };
        match declared {
            0 => Ok(()),
            _ => Err("the runtime parameters cannot be declared: is the module loaded twice?".to_owned()),
        }
    }
}
