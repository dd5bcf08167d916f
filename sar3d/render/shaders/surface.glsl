// Shared by the fragment shaders of all OpenGL renderers; the line that only says lighting becomes the lights.
in vec3 world;
in vec3 world_normal;
in vec2 texcoord;
in vec4 tint;
flat in vec2 surface;
flat in vec3 anchor;

uniform vec3 eye;
uniform vec3 forward;
uniform int lit;

//lighting

#if defined(PLAIN)
vec4 texel() { return vec4(1.0); }
#elif defined(TEXTURED)
uniform sampler2D base_texture;

vec4 texel() { return texture(base_texture, texcoord); }
#elif defined(MIRRORED)
uniform sampler2D base_texture;
uniform ivec2 mirror;

// Mirrored repeat by folding the coordinates; their derivatives jump at the folds, so they are taken before.
vec4 texel() {
    vec2 folded = mix(texcoord, 1.0 - abs(mod(texcoord, 2.0) - 1.0), vec2(mirror));
    return textureGrad(base_texture, folded, dFdx(texcoord), dFdy(texcoord));
}
#endif

// A triangle seen nearly edge-on has no area to speak of, and rasterizers then extrapolate its values far beyond it.
// `anchor` is one of its corners and |surface.y| the greatest distance from there to any of its points.
bool beyond_triangle() {
    vec3 away = world - anchor;
    return dot(away, away) > surface.y * surface.y;
}

vec4 base_color() {
    vec4 color = tint * texel();
    return vec4(color.rgb, surface.x < 0.0 ? 1.0 : color.a);
}

// A vanishing interpolated normal has no direction; the one to the camera is as good as any and keeps NaN out.
vec3 facing_normal() {
    vec3 ray = normalize(world - eye);
    float size = dot(world_normal, world_normal);
    vec3 n = size > 1e-12 ? world_normal * inversesqrt(size) : -ray;
    return dot(n, ray) > 0.0 ? -n : n;
}

vec3 shade(vec3 albedo, vec3 n) {
    return lit == 1 && surface.y > 0.0 ? albedo * irradiance(n) : albedo;
}

float distance_ahead() { return dot(world - eye, forward); }
