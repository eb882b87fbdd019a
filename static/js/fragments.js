/** Markup that the server wrote for the modules, in `<template data-fragment="name">`. */

export function fragment(name) {
  const template = document.querySelector(`template[data-fragment="${name}"]`);
  return document.importNode(template.content, true);
}

export function announce(name, detail = {}) {
  document.dispatchEvent(new CustomEvent(name, { detail }));
}
