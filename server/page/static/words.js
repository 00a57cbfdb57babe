// Facts of a task in a few words.

/** The method of a task by its parts: a frame is TVP's, prompts in layers are M²PT's. */
export function methodOf(task) {
  const said = { tvp: "TVP", m2pt: "M²PT" }[task.provenance?.method];
  if (said) return said;
  return ["frame", "text", "vision", "prefix"].filter((part) => task[part]).join(" + ") || "task";
}

/** A part of a task's traffic in per cent. */
export const percentOf = (share) =>
  (share > 0 && share < 0.001 ? "< 0.1 %" : `${Number((share * 100).toFixed(1))} %`);

/** Layers that have prompts of their own, and tokens in each. */
export const shapeOf = (spec) => `${spec.at?.length ?? spec.layers} layers × ${spec.length} tokens`;

/** How the server will word `text` for `task`, null where it changes nothing. */
export const wordingOf = (task, text) => task.usage?.template?.replace("{text}", () => text) ?? null;
