#version 330 core
uniform sampler2D color;
uniform sampler2D normal;
uniform sampler2D depth;

layout(location = 0) out vec3 out_rgb;
layout(location = 1) out float out_alpha;
layout(location = 2) out vec3 out_normal;
layout(location = 3) out float out_depth;

vec3 srgb_encode(vec3 linear) {
    vec3 high = 1.055 * pow(max(linear, vec3(0.0031308)), vec3(1.0 / 2.4)) - 0.055;
    return mix(high, linear * 12.92, vec3(lessThanEqual(linear, vec3(0.0031308))));
}

vec4 row(ivec2 center) {
    return texelFetch(color, center - ivec2(1, 0), 0) + 2.0 * texelFetch(color, center, 0)
        + texelFetch(color, center + ivec2(1, 0), 0);
}

void main() {
    ivec2 center = 2 * ivec2(gl_FragCoord.xy) + 1;
    vec4 mean = (row(center - ivec2(0, 1)) + 2.0 * row(center) + row(center + ivec2(0, 1))) / 16.0;
    vec3 encoded = srgb_encode(clamp(mean.rgb / max(mean.a, 1e-6), 0.0, 1.0));
    out_rgb = encoded * mean.a + (1.0 - mean.a);
    out_alpha = mean.a;
    // Half floats are a little off unit length.
    vec3 n = texelFetch(normal, center, 0).xyz;
    out_normal = n / max(length(n), 1e-6);
    out_depth = texelFetch(depth, center, 0).x;
}
