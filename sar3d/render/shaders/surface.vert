#version 330 core
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
layout(location = 2) in vec2 uv;
layout(location = 3) in vec2 params;
layout(location = 4) in vec4 color;

uniform mat4 world_to_clip;

out vec3 world;
out vec3 world_normal;
out vec2 texcoord;
out vec4 tint;
flat out vec2 surface;
flat out vec3 anchor;

void main() {
    world = position;
    world_normal = normal;
    texcoord = uv;
    tint = color;
    surface = params;
    anchor = position;
    gl_Position = world_to_clip * vec4(position, 1.0);
}
